"""One simulated world around the real core: virtual time, a seed, faults as data. docs/simulation.md says more."""
