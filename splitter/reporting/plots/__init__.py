"""Plots, with the extra ``plot``: the only user of matplotlib. Each returns a figure under its finding."""

from splitter.reporting.plots.codecs import bits_plot, codecs_plot, sizes_plot
from splitter.reporting.plots.cuts import links_plot, order_plot, profile_plot, rivals_plot
from splitter.reporting.plots.following import envelope_plot, run_plot, strategies_plot
from splitter.reporting.plots.style import demand_plot, save_plot
from splitter.reporting.plots.tradeoff import front_plot, memory_plot
from splitter.reporting.plots.verification import verification_plot

__all__ = [
    "bits_plot", "codecs_plot", "demand_plot", "envelope_plot", "front_plot", "links_plot", "memory_plot",
    "order_plot", "profile_plot", "rivals_plot", "run_plot", "save_plot", "sizes_plot", "strategies_plot",
    "verification_plot",
]  # fmt: skip
