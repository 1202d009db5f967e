"""Write the grades of a class as one HTML page: no script, no request, readable on a phone and in print."""

from html import escape
from string import Template

from grader.cohort.cohort import Cohort
from grader.cohort.grades_csv import why
from grader.findings import counted
from grader.formats.clean import clean
from grader.grading.verdict import Grade

NAME = "summary.html"
N_BARS = 10
WIDTH, HEIGHT, FOOT = 500, 160, 24  # of the figure, in its own units

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Grades: $count</title>
<style>
:root { color-scheme: light dark; --edge: #8886; --bar: #2b6cb0; --good: #1a6b36; --bad: #a31515; }
@media (prefers-color-scheme: dark) { :root { --bar: #63a4e8; --good: #6fcf8f; --bad: #ff8a8a; } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem; padding: 0 1rem; }
svg { max-width: 32rem; width: 100%; height: auto; } svg rect { fill: var(--bar); }
svg text { fill: currentColor; font-size: 13px; text-anchor: middle; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--edge); padding: .3rem .6rem; text-align: left; vertical-align: top; }
td, li { overflow-wrap: anywhere; } .number { text-align: right; white-space: nowrap; }
.passed, .failed { white-space: nowrap; } .passed { color: var(--good); }
.failed { color: var(--bad); font-weight: 600; }
@media (max-width: 40rem) {
  thead { display: none; } tr { border-bottom: 2px solid var(--edge); display: block; padding: .4rem 0; }
  td, tbody th { border: 0; display: flex; gap: .6rem; padding: .1rem 0; } .number { text-align: left; }
  td::before { content: attr(data-name); flex: 0 0 4.5rem; opacity: .8; } td:empty { display: none; }
}
</style>
</head>
<body>
<h1>Grades: $count</h1>
<p>$result</p>
<h2>Scores</h2>
<p>Submissions by percent of the points.</p>
$figure
<h2>To look at</h2>
$looks
<h2>Submissions</h2>
<div class="wide" tabindex="0" role="region" aria-label="Submissions">
<table>
<thead><tr><th scope="col">Submission</th><th scope="col">Result</th><th scope="col" class="number">Score</th>
<th scope="col">Level</th><th scope="col">Why</th><th scope="col">Flags</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
</body>
</html>
""")


def to_html(cohort: Cohort) -> str:
    """The page: how many passed, the distribution of scores, what to look at, and a table."""
    grades = cohort.grades
    policy = grades[0].policy
    looks = "".join(f"<li>{_text(look)}.</li>" for look in cohort.looks)
    n_passed = sum(grade.passed for grade in grades)
    return _PAGE.substitute(
        count=counted(len(grades), "submission"),
        result=f"{n_passed} passed under policy {_text(policy.name)} v{policy.version}.",
        figure=_figure(cohort),
        looks=f"<ul>{looks}</ul>" if looks else "<p>Nothing.</p>",
        rows="\n".join(_row(grade, cohort.flags(grade.run)) for grade in grades),
    )


def _figure(cohort: Cohort) -> str:
    """A histogram of the scores, as shares of the points that could be earned."""
    counts = [0] * N_BARS
    usable = [grade for grade in cohort.grades if not grade.problems and grade.max_score]
    for grade in usable:
        counts[min(N_BARS - 1, int(N_BARS * grade.score / grade.max_score))] += 1
    step, most = WIDTH / N_BARS, max(1, *counts)
    shapes = []
    for i, count in enumerate(counts):
        height = (HEIGHT - 2 * FOOT) * count / most
        x, y = i * step + step / 2, HEIGHT - FOOT - height
        shapes.append(f'<rect x="{i * step + 3:g}" y="{y:.1f}" width="{step - 6:g}" height="{height:.1f}"/>')
        shapes.append(f'<text x="{x:g}" y="{y - 5:.1f}">{count or ""}</text>')
        shapes.append(
            f'<text x="{x:g}" y="{HEIGHT - 7}">{100 * i // N_BARS}\u2013{100 * (i + 1) // N_BARS}</text>'
        )
    spoken = ", ".join(f"{count} from {10 * i}%" for i, count in enumerate(counts) if count) or "none"
    label = f"Histogram of the scores in percent of the points: {spoken}."
    n_unusable = len(cohort.grades) - len(usable)
    note = f"<p>{counted(n_unusable, 'submission')} could not be graded.</p>" if n_unusable else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(shapes)}</svg>{note}'
    )


def _row(grade: Grade, flags: list[str]) -> str:
    result = "unusable" if grade.problems else "passed" if grade.passed else "failed"
    color = "passed" if grade.passed else "failed"
    return (
        f'<tr><th scope="row">{escape(grade.id)}</th><td data-name="Result" class="{color}">{result}</td>'
        f'<td data-name="Score" class="number">{grade.score:g} of {grade.max_score:g}</td>'
        f'<td data-name="Level">{grade.standing}</td><td data-name="Why">{_text(why(grade))}</td>'
        f'<td data-name="Flags">{"<br>".join(map(_text, flags))}</td></tr>'
    )


def _text(text: str) -> str:
    return escape(clean(text))
