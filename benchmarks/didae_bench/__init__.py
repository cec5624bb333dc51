"""What measures didae: one file per table, each with the paper's form beside ours."""
