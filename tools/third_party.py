#!/usr/bin/env python3
"""What the program is made of: the licences of every crate in it, and a bill of materials.

    python tools/third_party.py DIR    writes DIR/THIRD-PARTY-LICENSES.txt and DIR/sbom.cdx.json (CycloneDX 1.5)

Crates that are compiled into the program or run while it is built count, those of tests and benches do not. Texts of
licences come from the crates' own folders, as `cargo fetch` (or any build) leaves them; a crate that has no text of its own
is listed with its licence's name, of which another crate has the text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
#: How files with licences begin.
BEGINNINGS = ("licen", "copying", "notice", "unlicense", "copyright")


def metadata() -> dict[str, Any]:
    """Cargo's account of the packages."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def crates(found: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[str]]]:
    """The program's own package, the others that it is made of by name and version, and what each depends on."""
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    uses: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        package = waiting.pop()
        if package in uses:
            continue
        needed = [d["pkg"] for d in nodes[package]["deps"] if any(kind["kind"] != "dev" for kind in d["dep_kinds"])]
        uses[package] = sorted(set(needed))
        waiting.extend(needed)
    others = [packages[package] for package in uses if package != root]
    return packages[root], sorted(others, key=lambda p: (p["name"], p["version"])), uses


def texts(package: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and texts of the licences in a crate's folder."""
    folder = Path(package["manifest_path"]).parent
    files = [path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(BEGINNINGS)]
    return [(path.name, path.read_text(errors="replace").strip()) for path in sorted(files)]


def licences(program: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """All licences, each text once."""
    lines = [f"{program['name']} {program['version']} contains these crates, under the licences named beside them.", ""]
    seen: dict[str, int] = {}
    for package in others:
        if not package["license"]:
            sys.exit(f"{package['name']} {package['version']}: names no licence")
        numbers = [seen.setdefault(text, len(seen) + 1) for _, text in texts(package)]
        where = f"texts {', '.join(map(str, numbers))}" if numbers else "no text of its own"
        lines.append(f"{package['name']} {package['version']}: {package['license']} ({where})")
    for text, number in seen.items():
        lines += ["", "=" * 100, f"Text {number}", "", text]
    return "\n".join(lines) + "\n"


def reference(package: dict[str, Any]) -> str:
    """A crate's package URL."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package: dict[str, Any], checksums: dict[tuple[str, str], str], kind: str) -> dict[str, Any]:
    """One crate of the bill of materials."""
    entry: dict[str, Any] = {"type": kind, "bom-ref": reference(package), "name": package["name"]}
    entry |= {"version": package["version"], "purl": reference(package)}
    if package["description"]:
        entry["description"] = " ".join(package["description"].split())
    # The slash is an older way to write OR.
    entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum is not None:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def bill(program: dict[str, Any], others: list[dict[str, Any]], uses: dict[str, list[str]]) -> dict[str, Any]:
    """The bill of materials; the same for the same lock file."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p["checksum"] for p in lock["package"] if "checksum" in p}
    by_id = {package["id"]: package for package in [program, *others]}
    graph = [
        {"ref": reference(package), "dependsOn": [reference(by_id[other]) for other in uses[package["id"]]]}
        for package in [program, *others]
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(program, checksums, "application")},
        "components": [component(package, checksums, "library") for package in others],
        "dependencies": graph,
    }


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    program, others, uses = crates(metadata())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "THIRD-PARTY-LICENSES.txt").write_text(licences(program, others))
    (folder / "sbom.cdx.json").write_text(json.dumps(bill(program, others, uses), indent=1) + "\n")
    print(f"{len(others)} crates")


if __name__ == "__main__":
    main()
