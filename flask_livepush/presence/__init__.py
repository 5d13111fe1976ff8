"""Who is in which room: one contract, its stores, and this process's part in it."""
