"""A plan under failures: what days of dead nodes, slow links and a lost server leave of its tokens."""
