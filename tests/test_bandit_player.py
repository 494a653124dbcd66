import pytest
import torch

from generality.agents.bandit_player import BanditPlayer
from generality.agents.text_bandit import STYLES
from generality.benchmarks.worlds import world_tokenizer
from generality.decoding import SteeringHook
from generality.models import tiny_decoder

HISTORIES = [[], [(0, 7)], [(0, 7), (1, 12)]]


@pytest.fixture(scope="module")
def player() -> BanditPlayer:
    tokenizer = world_tokenizer()
    model = tiny_decoder("0.05M", vocabulary=len(tokenizer)).eval()
    with torch.no_grad():  # it leans to the arms, and to the first
        prompt = torch.tensor([tokenizer(":")["input_ids"]])
        state = model.model(prompt).last_hidden_state[0, -1]
        for name, logit in zip(STYLES["letters"].names, (5.0, 4.0), strict=True):
            (place,) = tokenizer(name, add_special_tokens=False)["input_ids"]
            model.lm_head.weight[place] = logit * state / (state @ state)
    return BanditPlayer(model, tokenizer, rounds=3, max_tokens=1)


@torch.no_grad()
def by_hand(player: BanditPlayer, history: list, temperature: float = 1.0) -> list[float]:
    (prompt,) = player.prompts([history], "letters")
    tokens = torch.tensor([player.tokenizer(prompt)["input_ids"]])
    chances = (player.model(tokens).logits[0, -1].double() / temperature).softmax(-1)
    arms = player.tokenizer("a b", add_special_tokens=False)["input_ids"]
    found = chances[arms].tolist()
    return [*found, 1 - sum(found)]


def test_chances_are_those_of_the_next_word(player):
    for temperature in (1.0, 3.0):
        table = player.counts(HISTORIES, "letters", 0, 0, temperature=temperature)
        wanted = [by_hand(player, history, temperature) for history in HISTORIES]
        assert table == pytest.approx(torch.tensor(wanted).numpy(), abs=1e-5)
    again = player.counts(HISTORIES[::-1], "letters", 0, 0, temperature=3.0)
    assert again[::-1] == pytest.approx(table)


def test_drawn_answers_are_as_frequent(player):
    counted = player.counts(HISTORIES[1:], "letters", 400, 0) / 400
    chances = player.counts(HISTORIES[1:], "letters", 0, 0)
    assert chances[:, :2].min() > 0.1
    assert counted == pytest.approx(chances, abs=0.1)


def test_steering_changes_chances_as_it_would_without_a_cache(player):
    vector = torch.randn(48, generator=torch.Generator().manual_seed(0))
    hook = SteeringHook(player.model, 1, vector, beta=3.0)
    table = player.counts(HISTORIES, "letters", 0, 0, steered=hook)
    with hook:
        wanted = [by_hand(player, history) for history in HISTORIES]
    assert table == pytest.approx(torch.tensor(wanted).numpy(), abs=1e-5)
    assert abs(table - player.counts(HISTORIES, "letters", 0, 0)).max() > 0.01


class Digits:
    """Digits are tokens of their own, after a space of its own."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def test_the_prompt_goes_on_to_where_the_names_differ():
    player = BanditPlayer(torch.nn.Identity(), Digits(), rounds=3)
    (asked,) = player.tokens([[]], "slots")
    (read,) = player.tokens([[]], "slots", read=True)
    assert "".join(map(chr, asked)).endswith("I choose Machine")
    assert read == [*asked, ord(" ")]
