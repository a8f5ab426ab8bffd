"""What is believed of the factors between ideal and real seconds, and how measured runs move it.

A Gaussian belief: prior spreads of the factors, alike for all systems or shared by those of one framework,
chip or format; measured runs condition it. `posterior.condition` does so, `posterior.Posterior` answers.
"""
