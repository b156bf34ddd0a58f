"""Labels of any kind as classes 0 to n - 1: numbers with gaps, names, several."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foundation.errors import SampleError, UserError
from foundation.probes import knn, linear, svm
from foundation.probes.feature_cache import load_features, save_features
from foundation.probes.features import FeatureSet
from foundation.probes.frame_features import FrameSet, number_events, read_events
from foundation.probes.labels import class_names, number_classes


def features(labels: list[object], seed: int = 0) -> FeatureSet:
    """Two clear clusters: the first half of the samples lies here, the second there."""
    count = len(labels)
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) * 0.05
    x[: count // 2, 0] += 1.0
    x[count // 2 :, 1] += 1.0
    return FeatureSet(
        cls=(x,),
        patches=x.clone(),
        labels=torch.tensor([label if isinstance(label, int) else -1 for label in labels]),
        keys=tuple(f"s{n}" for n in range(count)),
        ids=torch.arange(count),
        names=tuple(None if isinstance(label, int) else label for label in labels),
    )


SPARSE = [3] * 20 + [1_700_000_000] * 20
NAMES = ["cat"] * 20 + ["dog"] * 20


@pytest.mark.parametrize("labels", [SPARSE, NAMES], ids=["a class number of 1,700,000,000", "names"])
def test_every_probe_counts_the_classes_that_occur(labels):
    train, test = number_classes(features(labels).labelled(), features(labels, seed=1).labelled())
    assert train.labels.tolist() == [0] * 20 + [1] * 20 and len(train.classes) == 2
    near = knn.search(knn.vectors(train, "cls"), knn.vectors(test, "cls"), 5)
    assert knn.classify(near, train.labels, test.labels, [5])[5].top1 == 1.0
    settings = linear.Settings(learning_rates=(0.1,), blocks=(1,), pooling=(False,), epochs=20, batch_size=16)
    assert linear.fit(train, test, settings).top1 == 1.0
    assert svm.fit(train, test).top1 == 1.0


def test_splits_share_one_numbering_whatever_classes_each_has():
    train, test = number_classes(features(["dog", "ant", 7, 2]).labelled(), features([2, "bee", "ant", 9]).labelled())
    assert train.classes == test.classes == ("2", "7", "9", "ant", "bee", "dog")
    assert train.labels.tolist() == [5, 3, 1, 0] and test.labels.tolist() == [0, 4, 3, 2]
    plain = features([0, 1, 2, 1])
    assert torch.equal(number_classes(plain)[0].labels, plain.labels)  # numbers without gaps stay what they are


def test_several_labels_are_left_out_and_counted_and_alone_refused():
    mixed = features(["cat", ["cat", "dog"], None, "dog"]).labelled()
    assert mixed.keys == ("s0", "s3") and mixed.skipped == {"no label": 1, "label": 1}
    assert mixed.messages == ("1 without a label", "1 with several labels each: this probe needs one")
    with pytest.raises(UserError, match="2 of the 3 samples have several labels each: this probe needs one label"):
        features([[1, 2], [3, 1], None]).labelled()


def test_a_cache_keeps_names(tmp_path):
    path = tmp_path / "x.safetensors"
    save_features(path, features(["cat", ["a", 3], None, 7]), "key")
    kept = load_features(path, "key")
    assert kept is not None and kept.names == ("cat", ["a", 3], None, None) and kept.labels.tolist() == [-1, -1, -1, 7]


def test_events_may_have_names_or_any_class_numbers():
    raw = {"__key__": "k", "__shard__": "s.tar"}
    given = [{"label": label, "onset": 0.0, "offset": 1.0} for label in ("dog", 1_700_000_000, 4)]
    events = read_events(raw | {"json": json.dumps({"events": given}).encode()})
    frames = FrameSet(torch.zeros(1, 2, 3), np.zeros((1, 2, 2)), (events,), ("k",), 0, {}, ())
    count, (numbered,) = number_events(frames)
    assert count == frames.classes == 3 and [event.label for event in numbered.events[0]] == [2, 1, 0]
    for wrong in (10**30, 1e400, None, [1, 2]):
        text = json.dumps({"events": [{"label": wrong, "onset": 0.0, "offset": 1.0}]}).encode()
        with pytest.raises(SampleError, match="events: "):
            read_events(raw | {"json": text})


def test_class_numbers_get_the_names_of_the_index_where_it_has_some():
    assert class_names(("0", "7", "bee", "99999999999"), ("ant", "bat")) == ("ant", "7", "bee", "99999999999")
