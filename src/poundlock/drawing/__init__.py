"""Pictures from values: graphs as SVG and Mermaid, charts of bars as SVG. It knows no workflow and loads no library.

`graph` holds the values that are drawn. `layers` and `places` arrange a graph, `graph_svg` and `mermaid` write it.
`charts` holds rows of bars, `chart_svg` writes them. `model/graph.py` and `model/run_chart.py` read them from workflows
and timelines.
"""
