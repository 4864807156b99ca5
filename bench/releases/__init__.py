"""How bad releases are stopped, how soon, and how many requests they harm; and that good ones are left alone."""
