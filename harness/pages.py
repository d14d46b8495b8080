"""The look that the project's HTML pages share: light and dark as the reader's system is, wide tables in a box."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #59636e; --ground: #fff; --line: #d1d9e0; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9198a1; --ground: #0d1117; --line: #3d444d; --link: #58a6ff; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 1120px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; }
a { color: var(--link); }
nav { line-height: 2; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; border-radius: 6px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
.text { text-align: left; }
.scroll { overflow-x: auto; }
@media (max-width: 640px) {
  .figure { display: block; overflow-x: auto; }
  .figure img { max-width: none; width: 680px; }
}
"""
