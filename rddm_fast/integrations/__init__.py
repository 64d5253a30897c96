"""RDDM inside other people's libraries, one folder or file per library. Nothing else in the package needs them."""
