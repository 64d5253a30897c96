"""`rddm-fast serve`: one page on this computer that restores pictures, by the standard library's HTTP server."""
