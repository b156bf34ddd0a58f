"""Writes ``psds_eval.json``: what the published program makes of the events of ``test_psds``.

    pip install psds_eval==0.5.3 && python tests/probes/record_psds_eval.py

It runs with the pandas and NumPy of today once what it calls of them, and has gone since, is put back.
"""

from __future__ import annotations

import json

import numpy as np
import pandas
import psds_eval
from test_psds import CLASSES, PUBLISHED, SCENARIOS, SECONDS, truth_and_points

fill = pandas.DataFrame.fillna


def fillna(self, *args, method=None, **options):
    return self.ffill() if method == "ffill" else fill(self, *args, **options)


def table(recordings) -> pandas.DataFrame:
    rows = [(f"r{n}", e.onset, e.offset, f"c{e.label}") for n, part in enumerate(recordings) for e in part]
    return pandas.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])


def main() -> None:
    pandas.DataFrame.fillna = fillna
    psds_eval.psds.int = lambda array: np.asarray(array).item()
    truth, points = truth_and_points()
    about = pandas.DataFrame({"filename": [f"r{n}" for n in range(len(truth))], "duration": SECONDS})
    scenarios = {}
    for name, scenario in SCENARIOS.items():
        theirs = psds_eval.PSDSEval(
            scenario.detection, scenario.truth, scenario.cross, ground_truth=table(truth), metadata=about
        )
        for point in points:
            theirs.add_operating_point(table(point))
        own: dict[str, list] = {"right": [], "false": [], "crossed": []}
        for counts in theirs.operating_points.counts:
            inner = counts[:CLASSES, :CLASSES]
            own["right"].append(inner.diagonal().tolist())
            own["false"].append(counts[:CLASSES, -1].tolist())
            own["crossed"].append((inner - np.diag(inner.diagonal())).tolist())
        score = float(theirs.psds(scenario.confusion, scenario.spread, scenario.most).value)
        scenarios[name] = own | {"score": score}
    PUBLISHED.write_text(json.dumps({"program": "psds_eval 0.5.3", "scenarios": scenarios}) + "\n")


if __name__ == "__main__":
    main()
