"""HTML reports: each page is one file that needs no network, written with Jinja2 and Altair.

In: a checked dataset, or the files of one or two evaluations. Out: index.html, and tables beside it. Four subpackages
make a page each: `dataset` (stage `validate`), `evaluation` (stage `report`), `comparison` (command `compare`) and
`suspects` (command `suspects`). training.py plots a history.csv with matplotlib.

All pages use the same parts: charts.py, tables.py and gallery.py describe them, page.py renders them with the macros in
templates/kit.html. Start reading in page.py, then in evaluation/__init__.py.
"""
