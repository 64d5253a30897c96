"""The mathematics of RDDM on the host, in float64: schedules, objectives, steps. It imports only torch and numpy."""
