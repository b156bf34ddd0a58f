"""Sections of pictures: what training saw, what the encoder looks at, neighbours, confusions."""

from __future__ import annotations

from typing import Any

from foundation.printable import escape
from foundation.probes.labels import class_names
from foundation.report import figures, parts
from foundation.report.pictures import Gallery
from foundation.report.run import Run
from foundation.report.verdict import latest
from foundation.report.views import Sheet


def seen(sheet: Sheet | None, problem: str | None) -> str:
    """The augmented views of the first samples of the run."""
    title = "What training saw"
    if sheet is None:
        return parts.section(title, "", parts.empty(f"No views: {problem}")) if problem else ""
    rows = []
    for sample in sheet.samples:
        cells = [
            f'<figure style="width:{drawn.width}px">'
            f"{parts.picture(drawn.picture, f'{drawn.title} of {sample.name}', 'pixel')}"
            f"<figcaption>{escape(drawn.title)}</figcaption></figure>"
            for drawn in sample.pictures
        ]
        rows.append(f'<div class="views"><div class="key">{parts.name(sample.name)}</div>{"".join(cells)}</div>')
    which = "The first samples of the run, as its first step saw them" if sheet.own else "Samples of the shards named"
    lead = f"{which}: {'; '.join(sheet.kinds)}. Masked: what the student saw of it. {sheet.legend}".strip()
    if not sheet.masked:
        lead = lead.replace(" Masked: what the student saw of it.", "")
    return parts.section(title, lead, f'<div class="card">{"".join(rows)}</div>' + _notes(sheet.notes))


def looks(gallery: Gallery) -> str:
    """What the encoder looks at in single samples."""
    if not gallery.looks:
        return ""
    heads = [title for title, _ in gallery.looks[0].attention]
    first = gallery.looks[0]
    before, after = (["masked"] if first.hidden else []), (["PCA of patches"] if first.components else [])
    titles = ["sample", *before, *heads, *after]
    cells = [f'<div class="head">{escape(title)}</div>' for title in titles]
    for look in gallery.looks:
        pictures = [("sample", look.image), *([("masked", look.hidden)] if look.hidden else []), *look.attention]
        if look.components:
            pictures.append(("PCA of patches", look.components))
        cells += [
            f"<figure>{parts.picture(uri, f'{title} of {look.name}', 'pixel')}</figure>" for title, uri in pictures
        ]
    said = ["What a mask of the kind used in training hides."] if first.hidden else []
    if heads:
        said.append("Attention of the class token in the last block: the mean of its heads, then single ones.")
        if any(head.startswith("register") for head in heads):
            said.append("Of each register: the mean of its heads.")
        said.append("Bright is much.")
    if first.components:
        said.append(
            "The first three principal components of the patch features as red, green and blue, one basis for all "
            "samples: like colours mean like features."
        )
    style = f"--columns:{len(titles)}"
    grid = parts.scroll(f'<div class="maps" style="{style}">{"".join(cells)}</div>', "Attention and features", "card")
    return parts.section("What the encoder looks at", f"{' '.join(said)} {gallery.legend}".strip(), grid)


def neighbours(gallery: Gallery) -> str:
    """Queries and their nearest samples."""
    if not gallery.neighbours:
        return ""
    rows = []
    for item in gallery.neighbours:
        picture, query = item.query
        cells = [
            f'<figure class="query">{parts.picture(picture, f"query {query}", "pixel")}<figcaption>'
            f"{parts.name(query or 'query')}</figcaption></figure><div></div>"
        ]
        for uri, label, cosine, same in item.near:
            kind = "" if same is None else ' class="same"' if same else ' class="other"'
            word = "" if same is None else ", same label" if same else ", another label"
            cells.append(
                f"<figure{kind}>{parts.picture(uri, f'neighbour {label}{word}', 'pixel')}<figcaption>"
                f"{parts.name(label)} <span>{cosine:.2f}</span></figcaption></figure>"
            )
        rows.append(f'<div class="near" style="--n:{len(item.near)}">{"".join(cells)}</div>')
    coloured = any(same is not None for item in gallery.neighbours for *_, same in item.near)
    frames = " A solid green frame: the query's label; a dashed orange one: another." if coloured else ""
    lead = f"Query on the left, then its nearest of {gallery.searched:,} samples, with their cosine.{frames}"
    lead = f"{lead} {gallery.legend}"
    return parts.section("Nearest neighbours", lead.strip(), parts.scroll("".join(rows), "Nearest neighbours", "card"))


def confusions(run: Run, gallery: Gallery | None) -> str:
    """Which classes are taken for which: by the kNN probe, else by leaving one out of the samples of the gallery."""

    knn: Any = latest(run.probes, "knn") or {}
    measured = knn.get("confusion") or {}
    index = gallery.classes if gallery else ()
    classes = measured.get("names") or (class_names(measured["classes"], index) if measured.get("classes") else index)
    counts, k, how = measured.get("counts"), measured.get("k"), "on the test split of the kNN probe"
    if not counts and gallery and gallery.counts:
        counts, k, classes = gallery.counts, gallery.k, gallery.counted
        how = f"leaving one out of {gallery.searched:,} samples; top-1 {100 * gallery.top1:.1f} %"
    if not counts:
        return ""
    percents = " (numbers: percent)" if len(counts) <= figures.MOST_NUMBERED else ""
    lead = (
        f"Each row is a true class and shows how its samples were classified{percents}: right in blue, wrong in "
        f"orange, the more the darker. kNN with k = {k}, {how}."
    )
    matrix = parts.scroll(figures.confusion(counts, classes), "Confusion matrix", "card matrix")
    return parts.section("Which classes it confuses", lead, matrix)


def sections(
    run: Run, gallery: Gallery | None, problem: str | None, sheet: Sheet | None, no_views: str | None
) -> list[str]:
    """All sections of pictures, from the data to the features."""
    views = seen(sheet, no_views)
    if gallery is None:
        reason = parts.empty(f"No pictures: {problem or 'no encoder or no data'}")
        return [views, parts.section("What the encoder looks at", "", reason), confusions(run, gallery)]
    matrix = confusions(run, gallery)
    notes = gallery.notes if matrix or not gallery.no_matrix else [*gallery.notes, gallery.no_matrix]
    return [views, looks(gallery), neighbours(gallery), matrix, _notes(notes)]


def _notes(notes: list[str]) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{listed}</ul>' if listed else ""
