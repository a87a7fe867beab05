"""Cost: MACs by counting, seconds by measuring a few kinds of step, and the table that prices any plan from both.

Importing this package imports no torch.
"""

from postdiff_calib.cost.build import build_cost_table, table_for_card
from postdiff_calib.cost.table import CostTable, Latency

__all__ = ["CostTable", "Latency", "build_cost_table", "table_for_card"]
