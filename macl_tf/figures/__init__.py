"""Pictures of a run: training curves, label frequencies, per-label precision, retrieved neighbours. All are PNG files.

Matplotlib is imported when something is drawn, through its object interface: no window, no global figure and no
backend to choose, so the functions neither disturb nor notice any other use of matplotlib.
"""

from macl_tf.figures.charts import plot_history, plot_label_frequencies, plot_per_label
from macl_tf.figures.neighbours import contact_sheet

__all__ = ["contact_sheet", "plot_history", "plot_label_frequencies", "plot_per_label"]
