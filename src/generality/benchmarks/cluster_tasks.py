"""Small classification tasks made of unlabelled embeddings, for meta-learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Episode:
    """One task: rows of the data, one line per class, and what the classes are called.

    `classes` are pseudo-classes and `names` their words, empty where no texts were given.
    """

    classes: Int[np.ndarray, " ways"]
    names: tuple[str, ...]
    support: Int[np.ndarray, "ways shots"]
    query: Int[np.ndarray, "ways queries"]


@dataclass(frozen=True)
class ClusterTasks:
    """Pseudo-classes inside topics, and the episodes drawn from them.

    Attributes:
        topics: broad cluster of every row.
        classes: pseudo-class of every row; each lies in one topic.
        names: of every pseudo-class.
        similarity: of every row to every pseudo-class's centre, cosine.
    """

    topics: Int[np.ndarray, " rows"]
    classes: Int[np.ndarray, " rows"]
    names: tuple[str, ...]
    similarity: Float[np.ndarray, "rows classes"]
    ways: int
    shots: int
    queries: int
    query_shift: str

    def usable(self) -> dict[int, Int[np.ndarray, " classes"]]:
        """Topic → its classes with rows enough, for topics with at least `ways` of them."""
        least = self.shots + (self.queries if self.query_shift == "none" else 0)
        counts = np.bincount(self.classes, minlength=len(self.names))
        found = {}
        for topic in np.unique(self.topics):
            own = np.unique(self.classes[self.topics == topic])
            own = own[counts[own] >= least]
            if len(own) >= self.ways:
                found[int(topic)] = own
        return found

    def sample(self, rng: np.random.Generator) -> Episode:
        """`ways` classes of one topic; query rows come from where `query_shift` says."""
        usable = self.usable()
        topic = int(rng.choice(list(usable)))
        classes = rng.permutation(usable[topic])[: self.ways]
        support, query = [], []
        outside = np.flatnonzero(self.topics != topic)
        near = self.similarity[np.ix_(outside, classes)]
        nearest = near.argmax(1)
        for place, which in enumerate(classes):
            own = rng.permutation(np.flatnonzero(self.classes == which))
            support.append(own[: self.shots])
            if self.query_shift == "none":
                query.append(own[self.shots : self.shots + self.queries])
                continue
            # the purest rows of other topics: nearer to this class than to any other of the task
            margin = near[:, place] - np.delete(near, place, 1).max(1)
            margin = np.where(nearest == place, margin, margin - 4)  # cosines differ by 2 at most
            purest = outside[np.argsort(-margin, kind="stable")[: 3 * self.queries]]
            query.append(rng.permutation(purest)[: self.queries])
        return Episode(
            classes, tuple(self.names[which] for which in classes), np.stack(support),
            np.stack(query),
        )  # fmt: skip


def cluster_tasks(
    embeddings_a: Float[np.ndarray, "rows dim"],
    embeddings_b: Float[np.ndarray, "rows dim_b"] | None = None,
    *,
    levels: tuple[int, int] = (20, 5),
    ways: int = 5,
    shots: int = 4,
    queries: int = 10,
    query_shift: Literal["other_parent", "none"] = "other_parent",
    texts: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    seed: int = 0,
) -> ClusterTasks:
    """Pseudo-tasks from any unlabelled embeddings: topics, and pseudo-classes inside each topic.

    k-means on `embeddings_a` makes the topics, k-means inside a topic its pseudo-classes. A task
    takes classes of one topic; with "other_parent" its query rows come from all other topics, each
    to the class whose centre it is nearest to, the clearest ones first, which imitates a shift of
    domain. "none" draws them from the class itself. Both views (images and captions, say) count
    equally in the distance to a centre.

    Args:
        embeddings_a: the view that is clustered; lengths do not matter.
        embeddings_b: a second view of the same rows.
        levels: topics, and pseudo-classes in each.
        ways: classes of a task, at most levels[1].
        shots: support rows of a class.
        queries: query rows of a class.
        query_shift: see above.
        texts: what names are made of: the two words of a class that weigh most by tf-idf.
        leave_out: words that no name may hold, such as the names of the classes tested later.
        seed: of k-means.

    Raises:
        ValueError: sizes below 1, ways above levels[1], views or texts of other lengths, fewer rows
            than clusters, or no topic with classes enough.

    Source: cross-modal hierarchical clustering of GRAM (Li et al. 2023, arXiv 2303.06571, section
    3.2); how its tasks are cut is not published, so this shape is ours.

    >>> rng = np.random.default_rng(0)
    >>> places = rng.normal(size=(6, 8)).repeat(40, 0) + 0.2 * rng.normal(size=(240, 8))
    >>> tasks = cluster_tasks(places, levels=(3, 2), ways=2, shots=3, queries=5)
    >>> episode = tasks.sample(rng)
    >>> episode.support.shape, episode.query.shape
    ((2, 3), (2, 5))
    >>> bool(set(tasks.topics[episode.query.ravel()]) & set(tasks.topics[episode.support.ravel()]))
    False
    """
    from sklearn.cluster import KMeans  # late: the room is imported by every study

    if min(*levels, shots, queries) < 1 or not 2 <= ways <= levels[1]:
        raise ValueError("levels, shots and queries are at least 1, ways is 2 to levels[1]")
    if query_shift not in ("other_parent", "none"):
        raise ValueError(f"query_shift is 'other_parent' or 'none', not '{query_shift}'")
    if len(embeddings_a) < levels[0] * levels[1]:
        raise ValueError(f"{len(embeddings_a)} rows are too few for {levels} clusters")
    if any(len(o) != len(embeddings_a) for o in (embeddings_b, texts) if o is not None):
        raise ValueError("views and texts have one entry for each row")
    views = [_unit(v) for v in (embeddings_a, embeddings_b) if v is not None]
    topics = KMeans(levels[0], n_init=1, random_state=seed).fit_predict(views[0])
    classes = np.zeros(len(topics), np.int64)
    count = 0
    for topic in range(levels[0]):
        rows = np.flatnonzero(topics == topic)
        parts = min(levels[1], len(rows))
        inside = KMeans(parts, n_init=1, random_state=seed).fit_predict(views[0][rows])
        found, inside = np.unique(inside, return_inverse=True)
        classes[rows] = count + inside
        count += len(found)
    belongs = np.eye(count, dtype=np.float32)[classes]
    similarity = np.mean([v @ _unit(belongs.T @ v).T for v in views], axis=0)
    names = ("",) * count if texts is None else cluster_names(texts, classes, leave_out=leave_out)
    tasks = ClusterTasks(
        topics, classes, names, similarity, ways, shots, queries, query_shift
    )  # fmt: skip
    if not tasks.usable():
        raise ValueError("no topic has classes enough of that many rows; ask for less")
    if query_shift == "other_parent" and (levels[0] < 2 or np.bincount(topics).max() > len(
        topics
    ) - queries):  # fmt: skip
        raise ValueError("too few rows lie outside a topic for the query")
    return tasks


def cluster_names(
    texts: Sequence[str],
    classes: Int[np.ndarray, " rows"],
    *,
    words: int = 2,
    leave_out: Sequence[str] = (),
) -> tuple[str, ...]:
    """A name for each cluster: its `words` words with the greatest mean tf-idf.

    >>> cluster_names(["cats purr", "cats purr", "dogs bark"], np.array([0, 0, 1]))
    ('cats purr', 'bark dogs')
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=r"(?u)\b[a-zA-Z]{3,}\b")
    weights = vectorizer.fit_transform(texts)
    vocabulary = vectorizer.get_feature_names_out()
    banned = {word.lower() for name in leave_out for word in name.split()}
    kept = np.array([not any(word in ban or ban in word for ban in banned) for word in vocabulary])
    names = []
    for which in range(int(classes.max()) + 1):
        mean = np.asarray(weights[classes == which].mean(0)).ravel() * kept
        best = [place for place in np.argsort(-mean, kind="stable")[:words] if mean[place] > 0]
        names.append(" ".join(vocabulary[best]) or "other")
    return tuple(names)


def _unit(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
