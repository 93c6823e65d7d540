"""What people look at: charts as SVG, and one HTML page of a run that needs no other file."""

from __future__ import annotations

from fastgen.report.charts import Bar as Bar
from fastgen.report.charts import Series as Series
from fastgen.report.charts import bar_chart as bar_chart
from fastgen.report.charts import line_chart as line_chart
from fastgen.report.charts import standalone as standalone
