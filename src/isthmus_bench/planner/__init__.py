"""What the planner predicts, against what was measured and published."""
