import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side on few cores, and the same sums come out on every machine."""
    torch.set_num_threads(1)
