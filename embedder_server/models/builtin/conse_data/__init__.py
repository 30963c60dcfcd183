"""Data files of the ConSE model; see NOTICE.md for where they come from."""
