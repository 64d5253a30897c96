"""What keeps a run from harm: diverging, mixing two sets of data, and a second run in its folder."""
