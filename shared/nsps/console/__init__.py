"""What operators ask and do: the console function's JSON API, and the jobs that it works off."""
