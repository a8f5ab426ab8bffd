"""Diagnosis: logs and flight records of all ranks -> which fault it was, on which rank, what to do. Pure.

`sources` finds the files, `scan` takes from them the lines that matter, `lines` and `times` read who wrote
one and when, `facts` what they say together, `silent` and `flight` who was behind, `verdict` weighs it all.
"""
