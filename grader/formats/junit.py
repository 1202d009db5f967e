"""Write a grade as JUnit XML, for continuous integration."""

from datetime import datetime
from xml.etree import ElementTree as ET

from grader.findings import Status
from grader.formats.clean import clean, clean_lines
from grader.grading.verdict import Grade

EPOCH = "1970-01-01T00:00:00"  # required by the schema, but an unusable file has no timestamp


def to_junit(grade: Grade) -> str:
    """One test suite: a counted property that fails is a failure, an unusable submission is an error.

    A property that does not hold but passes under the policy, or is not counted, is skipped. The output
    follows the XSD that Ant's and Jenkins' readers share: timestamps without time zone, no control
    characters.
    """
    cases = [_case(grade, name) for name in grade.findings]
    if grade.problems:
        case = ET.Element("testcase", classname="grader", name="usable", time="0")
        error = ET.SubElement(case, "error", message=clean(grade.problems[0]), type="unusable")
        error.text = clean_lines(grade.problems)
        cases = [case]
    elif missing := [clean(grade.why_missing(level)) for level in grade.missing]:
        case = ET.Element("testcase", classname="grader", name="evidence", time="0")
        ET.SubElement(case, "failure", message=" ".join(missing), type="evidence").text = "\n".join(missing)
        cases.append(case)
    if above := [
        f"Level {int(level)} ({level.description}) is inconclusive." for level in grade.unsettled_levels
    ]:
        case = ET.Element("testcase", classname="grader", name="levels", time="0")
        ET.SubElement(case, "skipped", message=" ".join(above))
        cases.append(case)
    suite = ET.Element(
        "testsuite",
        id="0",
        package="grader",
        name=grade.id or "run",
        timestamp=_timestamp(grade.created_at),
        hostname="localhost",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time="0",
    )
    ET.SubElement(suite, "properties")
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = clean_lines(grade.sentences)
    ET.SubElement(suite, "system-err")
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _timestamp(created_at: str) -> str:
    """The time without its zone; an invalid time becomes the epoch."""
    try:
        return datetime.fromisoformat(created_at).replace(tzinfo=None).isoformat(timespec="seconds")
    except ValueError:
        return EPOCH


def _case(grade: Grade, name: str) -> ET.Element:
    finding = grade.findings[name]
    case = ET.Element("testcase", classname="grader", name=name, time="0")
    if finding.status is Status.HOLDS:
        return case
    message = clean(finding.summary)
    if name in grade.failing:
        failure = ET.SubElement(case, "failure", message=message, type=str(finding.status))
        failure.text = clean_lines((finding.summary, *finding.details))
    else:
        ET.SubElement(case, "skipped", message=message)
    return case
