"""Charts as data, drawn as SVG and PNG."""
