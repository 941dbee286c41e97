"""The gate's report as JUnit XML, as CI servers read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from prelu_doctor.escaping import plain
from prelu_doctor.records import Breach, CheckReport, ModelVerdict

_Outcome = Literal["passed", "failure", "error", "skipped"]


def to_junit(report: CheckReport) -> str:
    """The report as a test suite for each checkpoint, with a test case for each limit.

    A broken limit is a failure. A checkpoint that could not be scanned, or gave no evidence, is an error; the limits
    that could then not be judged are skipped.

    Args:
        report: The gate's report.

    Returns:
        An XML document, ending with a newline; control characters, which XML lacks, are visible escapes.
    """
    root = ET.Element("testsuites", name=plain(report.tool.name))
    suites = [_suite(judged) for judged in report.models]
    root.extend(suites)
    for attribute in ("tests", "failures", "errors", "skipped"):
        root.set(attribute, str(sum(int(suite.get(attribute, "0")) for suite in suites)))
    ET.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ET.tostring(root, encoding='unicode')}\n"


@dataclass(frozen=True)
class _Case:
    name: str
    outcome: _Outcome = "passed"
    message: str = ""


def _suite(judged: ModelVerdict) -> ET.Element:
    cases = list(_cases(judged))
    outcomes = [case.outcome for case in cases]
    suite = ET.Element("testsuite", name=plain(judged.path), tests=str(len(cases)))
    suite.set("failures", str(outcomes.count("failure")))
    suite.set("errors", str(outcomes.count("error")))
    suite.set("skipped", str(outcomes.count("skipped")))
    suite.extend(_element(case, judged.path) for case in cases)
    return suite


def _element(case: _Case, path: str) -> ET.Element:
    element = ET.Element("testcase", name=plain(case.name), classname=plain(path))
    if case.outcome != "passed":
        lines = [plain(line) for line in case.message.splitlines()]
        ET.SubElement(element, case.outcome, message=" ".join(lines)).text = "\n".join(lines)
    return element


def _cases(judged: ModelVerdict) -> Iterator[_Case]:
    if judged.report is None:
        yield _Case("scan", "error", judged.error or "the checkpoint could not be scanned")
        return
    missing = [breach.message for breach in judged.breaches if breach.limit == "no-evidence"]
    yield _Case("evidence", "error", "\n".join(missing)) if missing else _Case("evidence")
    yield _judged("non-finite", [breach for breach in judged.breaches if breach.limit == "non-finite"])
    names = ["max-dead", *(f"max-dead-site: {site.id}" for site in judged.report.sites)]
    if missing:
        yield from (_Case(name, "skipped", "no evidence to judge it on") for name in names)
        return
    yield _judged("max-dead", [breach for breach in judged.breaches if breach.limit == "max-dead"])
    at_sites = {breach.site: breach for breach in judged.breaches if breach.limit == "max-dead-site"}
    for site in judged.report.sites:
        yield _judged(f"max-dead-site: {site.id}", [at_sites[site.id]] if site.id in at_sites else [])


def _judged(name: str, breaches: list[Breach]) -> _Case:
    if not breaches:
        return _Case(name)
    lines = [f"{breach.site}: {breach.message}" if breach.site else breach.message for breach in breaches]
    return _Case(name, "failure", "\n".join(lines))
