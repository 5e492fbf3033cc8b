"""The sections of a data card on how labels were made and how good they are, from the .meta.json beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.dataset_names import metadata_path
from formats.io.files import load_json
from formats.io.markdown import markdown_text
from formats.io.plurals import many
from grounding_model.checkpoints.catalogue import known_licence

MAX_PAIRS = 20  # confused categories on the card


def read_origins(labels: str | Path) -> tuple[Mapping[str, Any], ...]:
    """The .meta.json of the labels, then that of the labels their model was trained on, back to the first round.

    () for labels without one. Ends early if a file of an earlier round is missing.
    """
    origins: list[Mapping[str, Any]] = []
    path: Path | None = Path(labels)
    while path is not None and (meta := metadata_path(path)).is_file():
        found = load_json(meta, "expected what filter wrote")
        if not isinstance(found, dict) or found in origins:
            break
        origins.append(found)
        parent = found.get("trained_on")
        name = parent.get("labels") if isinstance(parent, dict) else None
        path = path.with_name(os.path.basename(name)) if isinstance(name, str) and name else None
    return tuple(origins)


def describe_origin(origins: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with the model and its licence, prompt, policy, counts and rounds."""
    if not origins:
        return "Unknown: there is no `.meta.json` beside the labels."
    meta = origins[0]
    counts = meta.get("counts", {})
    corrected = many(counts.get("reviewed", 0), "image")
    lines = [
        f"- model: `{meta.get('weights')}`, SHA-256 `{str(meta.get('weights_sha256'))[:16]}`",
        f"- licence of the weights: {_licence(origins)}",
        f"- prompt: {_listed(meta.get('prompt'))}",
        f"- policy: {', '.join(f'{name} {value}' for name, value in _simple(meta.get('policy', {})))}",
        f"- {counts.get('candidates', 0)} candidates, {counts.get('kept', 0)} kept, {corrected} corrected by a person",
    ]
    if "round" not in meta:
        return "\n".join([*lines, "- labelled once, without self-training"])
    return "\n".join([*lines, f"- round {meta['round']} of self-training", "", _rounds(origins)])


def _licence(origins: Sequence[Mapping[str, Any]]) -> str:
    """The licence of the published weights that were used, or with which self-training began."""
    first = str(origins[-1].get("weights"))
    licence = known_licence(first)
    if not licence:
        return f"unknown; check the licence of `{first}`"
    trained = "" if len(origins) == 1 else f", from `{first}`, with which self-training began"
    return f"{licence}{trained}"


def _rounds(origins: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| round | model | boxes kept | images corrected | audited |", "|---:|---|---:|---:|---|"]
    for meta in reversed(origins):
        counts, audit = meta.get("counts", {}), meta.get("audit")
        audited = "no" if audit is None else f"{_interval(audit.get('precision'))}, {many(audit['reviews'], 'review')}"
        kept, corrected = counts.get("kept", 0), counts.get("reviewed", 0)
        rows.append(f"| {meta.get('round')} | `{meta.get('weights')}` | {kept} | {corrected} | {audited} |")
    return "\n".join(rows)


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "precision unknown"
    return f"precision {estimate['low']:.2f} … {estimate['high']:.2f}"


def _simple(policy: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (name, value) for name, value in policy.items() if isinstance(value, (int, float, str)) and value is not False
    ]


def _listed(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else ", ".join(markdown_text(str(name)) for name in prompt or ())


def audit_section(audit: Mapping[str, Any]) -> str:
    """Markdown with the intervals of an audit (flows.audit.report) and the number of reviewed images behind each."""
    lines = [f"From {audit['reviews']} images that a person reviewed (a stratified random sample, 95 % intervals):", ""]
    lines += ["| | | estimate | from | to | reviewed images |", "|---|---|---:|---:|---:|---:|"]
    for name, part in {"all": audit, **audit.get("categories", {})}.items():
        for kind in ("precision", "recall"):
            if (found := part.get(kind)) is not None:
                numbers = " | ".join(f"{found[each]:.3f}" for each in ("value", "low", "high"))
                lines.append(f"| {markdown_text(name)} | {kind} | {numbers} | {found['images']} |")
    return "\n".join(lines)


def describe_confusions(meta: Mapping[str, Any]) -> str:
    """Markdown with confused categories, found by an audit or by comparison with a model; "" if none are known.

    Without an audit, absence from the list does not mean that a category is free of confusions.
    """
    return "\n\n".join(filter(None, (_audited_confusions(meta.get("audit")), _suspected(meta.get("suspects")))))


def _audited_confusions(audit: Mapping[str, Any] | None) -> str:
    if audit is None or "confusions" not in audit:  # written by an earlier version
        return ""
    where = f"In {many(audit['reviews'], 'image')} that a person reviewed"
    if not audit["confusions"]:
        return f"{where}, no label had the right position but a wrong category."
    rows = ((each["label"], each["object"], each["boxes"]) for each in audit["confusions"])
    return f"{where}, labels had the right position but a wrong category:\n\n{_pairs('object', rows)}"


def _suspected(suspects: Mapping[str, Any] | None) -> str:
    if not suspects or not suspects.get("kinds"):
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in suspects["kinds"].items())
    text = (
        f"Compared with {suspects['against']} in {many(suspects['images'], 'image')}, these labels are probably wrong "
        f"or missing (not checked by a person): {kinds}."
    )
    rows = [(each["label"], each["found"], each["boxes"]) for each in suspects.get("confusions", ())]
    return f"{text}\n\n{_pairs('found there', rows)}" if rows else text


def _pairs(what: str, rows: Any) -> str:
    listed = list(rows)
    lines = [f"| label | {what} | boxes |", "|---|---|---:|"]
    lines += [
        f"| {markdown_text(label)} | {markdown_text(other)} | {count} |" for label, other, count in listed[:MAX_PAIRS]
    ]
    more = f"\n\nand {len(listed) - MAX_PAIRS} more pairs" if len(listed) > MAX_PAIRS else ""
    return "\n".join(lines) + more


def sections(name: str, origins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the sections of the card about the labels of a split."""
    yield f"## How the labels of `{name}` were made\n\n{describe_origin(origins)}"
    if not origins:
        return
    if (audit := origins[0].get("audit")) is not None:
        yield f"## How good the labels of `{name}` are\n\n{audit_section(audit)}"
    if confusions := describe_confusions(origins[0]):
        yield f"## Known confusions of `{name}`\n\n{confusions}"
