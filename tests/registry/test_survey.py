"""All models at once say what each model says when it is asked alone."""

from __future__ import annotations

from pathlib import Path

from registry.catalog import Catalog
from registry.survey import survey
from tests.support.models import manifest_of


def test_a_survey_says_what_asking_model_by_model_says(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    for model in ("a", "b", "c"):
        for seed in ("1", "2"):
            catalog.add_version(model, manifest_of(model + seed, profile=seed * 64), actor="ann")
    catalog.set_alias("a", "champion", 2, expected=None, actor="ann")
    catalog.set_alias("a", "stable", 1, expected=None, actor="ann")
    catalog.set_alias("b", "champion", 1, expected=None, actor="ann")
    catalog.set_alias("b", "champion", None, expected=1, actor="ann")
    catalog.add_profile("c", 2, "f" * 64, source="traffic", actor="ann")
    document = {"id": "r", "model": "b", "revision": 1, "state": "succeeded"}
    catalog.save_rollout(document, expected_revision=None)
    found = survey(catalog)
    for model in ("a", "b", "c"):
        assert found.aliases.get(model, {}) == {name: row.version for name, row in catalog.aliases(model).items()}
        for version in (1, 2):
            given = catalog.profiles(model, version)
            assert found.profiles.get((model, version)) == (given[-1].sha256 if given else None)
    assert found.rolled_out == {"b"}
    catalog.close()
