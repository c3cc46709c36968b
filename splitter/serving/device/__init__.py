"""The device's side: sessions, what they hold, how they reach the server and do without it."""
