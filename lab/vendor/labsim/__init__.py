"""What the hardware simulators share: they print `hardware.json` in the formats of the real tools, and invent nothing.

`LABSIM_ROOT` moves every path below another directory; only the tests of the simulators set it.
"""
