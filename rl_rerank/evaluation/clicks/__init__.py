"""Click models of carousel pages, and measures that clicks and propensities suffice for."""
