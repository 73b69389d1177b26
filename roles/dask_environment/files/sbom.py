"""Write what a release is made of as a CycloneDX 1.6 document, sbom.cdx.json.

Run by the release's own Python before it is sealed, with the folder, what the manifest says in
JSON, and the record of where its packages are from: the report of pip, which is removed, or the
lock of Spack. The same packages give the same document: it has no time in it.
"""

import importlib.metadata
import json
import re
import sys
import uuid
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

# What older metadata says, as the SPDX list calls it; spaces, dashes, dots and case don't count.
SPELLINGS = {
    "MIT": "mit, mitlicense, themitlicense, themitlicensemit, expat",
    "BSD-3-Clause": "bsd3clause, bsd3, newbsd, bsd3clauselicense, 3clausebsdlicense, 3clausebsd",
    "BSD-2-Clause": "bsd2clause, bsd2clauselicense, simplifiedbsd",
    "Apache-2.0": "apache20, apache2, apachelicense20, apachelicenseversion20, "
    "apachesoftwarelicense",
    "ISC": "isc, isclicense, isclicenseiscl",
    "MPL-2.0": "mpl20, mozillapubliclicense20mpl20, mozillapubliclicense20",
    "PSF-2.0": "psf20, pythonsoftwarefoundationlicense, psfl",
    "LGPL-2.1-only": "lgpl21only",
    "LGPL-3.0-only": "lgpl30only",
    "Unlicense": "unlicense, theunlicenseunlicense",
    "Zlib": "zlib, zliblibpnglicense",
}
IDS = {spelling: name for name, all_ in SPELLINGS.items() for spelling in all_.split(", ")}


def identifier(text: str) -> str | None:
    """Return the SPDX identifier of a licence that is named; None when it is not known."""
    return IDS.get(re.sub(r"[^a-z0-9]", "", text.lower()))


def licences(package: Distribution) -> list[dict[str, Any]]:
    """Return the licence of a package as CycloneDX has it; empty when it names none."""

    def said(key: str) -> list[str]:
        return package.metadata.get_all(key) or []

    if expressions := said("License-Expression"):
        return [{"expression": expressions[0]}]
    lines = [line.strip() for text in said("License") for line in text.splitlines() if line.strip()]
    marks = [c.split(" :: ")[-1] for c in said("Classifier") if c.startswith("License :: OSI")]
    # The first line of a text is its title; a classifier may say less, as "BSD License" does
    named = [text for text in (*lines[:1], *marks) if text != "UNKNOWN"]
    found = next(filter(None, map(identifier, named)), None)
    if found is None and named and named[-1] in {"BSD", "BSD License"}:
        found = which_bsd(package)
    if found:
        return [{"license": {"id": found}}]
    return [{"license": {"name": named[-1]}}] if named else []


def which_bsd(package: Distribution) -> str | None:
    """Tell by its text which BSD licence a package has; None when it has no such text."""
    for path in package.files or ():
        if re.search(r"dist-info/(.*/)?(LICEN[CS]E|COPYING)", str(path)):
            text = " ".join(path.read_text().split())
            if "Redistribution and use in source and binary forms" in text:
                third = "endorse or promote" in text
                return "BSD-3-Clause" if third else "BSD-2-Clause"
    return None


def component(package: Distribution, hashes: dict[str, str]) -> dict[str, Any]:
    """Return what is known of an installed package."""
    name = re.sub(r"[-_.]+", "-", package.name).lower()
    purl = f"pkg:pypi/{name}@{package.version}"
    known: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
    }
    if name in hashes:
        known["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
    if found := licences(package):
        known["licenses"] = found
    known["purl"] = purl
    return known


def installed(report: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of the file that each package was installed from, which the lock named."""
    found = {}
    for one in report["install"]:
        name = re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
        said = one["download_info"]["archive_info"]
        # `hash` is how pip before 23.1 wrote it
        found[name] = said.get("hashes", {}).get("sha256") or said["hash"].removeprefix("sha256=")
    return found


def built(lock: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what Spack installed for use, not only to build; Python packages say so themselves."""
    specs, here = lock["concrete_specs"], set()
    todo = [root["hash"] for root in lock["roots"]]
    while todo:
        if (one := todo.pop()) not in here:
            here.add(one)
            todo += [
                needed["hash"]
                for needed in specs[one].get("dependencies", ())
                if set(needed["parameters"]["deptypes"]) & {"link", "run"}
            ]
    found = [
        {
            "type": "library",
            "bom-ref": f"spack/{one}",
            "name": specs[one]["name"],
            "version": specs[one]["version"],
            "purl": f"pkg:generic/{specs[one]['name']}@{specs[one]['version']}",
            "properties": [{"name": "spack:hash", "value": one}],
        }
        for one in here
        if not specs[one]["name"].startswith("py-") and "external" not in specs[one]
    ]
    return sorted(found, key=lambda known: (known["name"], known["bom-ref"]))


def document(
    said: dict[str, str], hashes: dict[str, str], others: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the whole document."""
    packages = {package.name: package for package in importlib.metadata.distributions()}
    name = f"dask-site-release/{said['release']}"
    serial = uuid.uuid5(uuid.NAMESPACE_URL, name + json.dumps([hashes, others]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": "dask-site-release",
                "version": said["release"],
            }
        },
        "components": [component(packages[each], hashes) for each in sorted(packages)] + others,
    }


def main() -> None:
    """Write it beside the environment."""
    release, said, record = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    known = json.loads(record.read_text())
    hashes, others = ({}, built(known)) if "concrete_specs" in known else (installed(known), [])
    if "wheel_sha256" in said:
        hashes["dask-site"] = said["wheel_sha256"]
    text = json.dumps(document(said, dict(sorted(hashes.items())), others), indent=1) + "\n"
    (release / "sbom.cdx.json").write_text(text)
    if "install" in known:
        record.unlink()


if __name__ == "__main__":
    main()
