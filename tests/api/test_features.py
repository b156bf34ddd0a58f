"""``FeatureExtractor`` among scikit-learn's own: pipelines, grid searches, clones, pickles."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from sklearn import set_config
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import foundation
from foundation import FeatureExtractor, config, paths
from foundation.errors import UserError
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recipe = config.load(Recipe, paths.recipe("quickstart").read_text(encoding="utf-8"))
    tensors = recipe.encoder.build().state_dict()
    return write_export(tmp_path_factory.mktemp("model") / "teacher.safetensors", tensors, recipe, "teacher", 0)


@pytest.mark.slow
def test_it_works_where_scikit_learn_expects_a_transformer(model, photographs):
    files = sorted(map(str, photographs.rglob("*.png")))
    labels = [file.split("/")[-2] for file in files]
    pipeline = make_pipeline(FeatureExtractor(str(model)), LogisticRegression(max_iter=500))
    assert pipeline.fit(files, labels).score(files, labels) > 0.8
    grid = {"featureextractor__tokens": ["cls", "patches"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(np.array(files), labels)
    assert search.best_params_["featureextractor__tokens"] in grid["featureextractor__tokens"]
    again = pickle.loads(pickle.dumps(pipeline))
    assert (again.predict(files) == pipeline.predict(files)).all()
    with joblib.parallel_backend("loky", n_jobs=1):
        assert GridSearchCV(pipeline, grid, cv=2).fit(files, labels).best_score_ > 0.8


def test_features_are_those_of_the_model(model, photographs):
    files = sorted(map(str, photographs.rglob("*.png")))[:5]
    extractor = FeatureExtractor(str(model), tokens="both", batch_size=2)
    features = extractor.fit_transform(files)
    wanted = foundation.load(model, tokens="both")
    assert features.dtype == np.float32 and features.shape == (5, wanted.width)
    np.testing.assert_allclose(features, wanted(files).numpy(), rtol=1e-5, atol=1e-5)
    for same in (np.array(files)[:, None], tuple(files)):
        np.testing.assert_array_equal(extractor.transform(same), features)
    np.testing.assert_array_equal(FeatureExtractor(wanted, tokens="both", batch_size=2).transform(files), features)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    np.testing.assert_allclose(extractor.transform(pictures), wanted(list(pictures)).numpy(), rtol=1e-5, atol=1e-5)
    names = extractor.get_feature_names_out()
    assert names[0] == "featureextractor0" and len(names) == wanted.width
    assert extractor.transform([]).shape == (0, wanted.width)
    with pytest.raises(UserError, match="takes several samples: give a list"):
        extractor.transform(files[0])
    with pytest.raises(UserError, match="loaded with tokens='both'"):
        FeatureExtractor(wanted).transform(files)


def test_parameters_are_handled_as_those_of_any_estimator(model):
    extractor = FeatureExtractor(str(model), tokens="patches", batch_size=3)
    copy = clone(extractor)
    assert copy.get_params() == extractor.get_params() and copy is not extractor
    assert copy.set_params(batch_size=5).batch_size == 5
    assert b"encoder" not in pickle.dumps(extractor)
    extractor.transform([np.zeros((8, 8, 3), np.uint8)])
    assert len(pickle.dumps(extractor)) < 1000  # the name alone, also when the model has been loaded
    for check in (
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
    ):
        check("FeatureExtractor", FeatureExtractor(str(model)))


def test_frames_of_pandas_come_out_where_they_are_asked_for(model, photographs):
    pandas = pytest.importorskip("pandas")
    files = pandas.Series(sorted(map(str, photographs.rglob("*.png")))[:3])
    frame = FeatureExtractor(str(model)).set_output(transform="pandas").transform(files)
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 3
    set_config(transform_output="default")
