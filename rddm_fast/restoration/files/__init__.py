"""Work on files of pictures: what to do, what became of each."""
