"""How Sphinx builds these pages. Nothing that a page loads comes from the network."""

import sys
from importlib import metadata, resources
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "figures"))

import draw  # noqa: E402 (it lies in the folder just named)
from numpydoc.xref import DEFAULT_LINKS  # noqa: E402

project = "numbarnn"
copyright = "the numbarnn developers"
release = version = metadata.version("numbarnn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
nitpicky = True
highlight_language = "none"  # blocks without a language are output

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# MathJax in one file, with its glyphs as outlines, so that neither scripts nor fonts are fetched.
MATHJAX = Path(str(resources.files("mathjax"))) / "static" / "mathjax" / "es5" / "tex-svg.js"
mathjax_path = MATHJAX.name

# What the pages of the reference say of each class: the methods that users call, and no others.
LAYER = ["build", "forward", "backward", "set_parameters", "count_parameters", "to"]
RECURRENT = [*LAYER[:3], "step", *LAYER[3:], "kernel_weights"]
OPTIMIZER = ["step", "start", "update"]
CALLBACK = ["check_numbers", "on_fit_begin", "on_epoch_end", "on_fit_end"]
METHODS = {
    "RNN": RECURRENT,
    "LSTM": RECURRENT,
    "GRU": RECURRENT,
    "Dense": LAYER,
    "Embedding": LAYER,
    "Dropout": LAYER,
    "MeanOverTime": LAYER,
    "MaxOverTime": LAYER,
    "Sequential": [
        "fit",
        "predict",
        "predict_proba",
        "evaluate",
        "forward",
        "backward",
        "build",
        "set_parameters",
        "snapshot",
        "restore",
        "count_parameters",
        "summary",
        "to",
    ],
    "CrossEntropy": ["probabilities"],
    "BinaryCrossEntropy": ["probabilities"],
    "Loss": ["probabilities", "check_targets", "kernel_for"],
    "Optimizer": OPTIMIZER,
    "SGD": OPTIMIZER,
    "RMSprop": OPTIMIZER,
    "Adam": OPTIMIZER,
    "AdamW": OPTIMIZER,
    "Schedule": ["at"],
    "Constant": ["at"],
    "CosineDecay": ["at"],
    "StepDecay": ["at"],
    "Callback": CALLBACK,
}
PROPERTIES = {
    name: ["parameters", "gradients", "built"] for name in METHODS if METHODS[name] in (LAYER, RECURRENT)
}
PROPERTIES |= {"Sequential": ["parameters", "device", "built"], "History": ["epochs"]}
autosummary_generate = True
autosummary_context = {"public_methods": METHODS, "public_properties": PROPERTIES}
autodoc_typehints = "none"  # the docstrings say it, with shapes
numpydoc_show_class_members = False  # the template lists them
# Types in docstrings are given with shapes, in words. Of these words our own classes are links; links to
# Python's and NumPy's pages would need their inventories, from the network.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
DEFAULT_LINKS.clear()
numpydoc_xref_aliases = {
    "Callback": "numbarnn.Callback",
    "History": "numbarnn.History",
    "Loss": "numbarnn.training.losses.Loss",
    "Optimizer": "numbarnn.training.optimizers.Optimizer",
    "Schedule": "numbarnn.training.schedules.Schedule",
    "Sequential": "numbarnn.Sequential",
}

sphinx_gallery_conf = {
    "examples_dirs": str(DOCS.parent / "examples"),
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "plot_gallery": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
}

html_theme = "pydata_sphinx_theme"
html_title = "numbarnn"
html_static_path = ["_static", str(MATHJAX)]
html_css_files = ["numbarnn.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "tour": []}

draw.draw_all(DOCS / "figures")
