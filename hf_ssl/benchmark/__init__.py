"""Every number of the project's goals, measured side by side with its peer; and what runs cost as work grows.

A row (`rows/`, by subject) says what is compared; `measuring` checks that the sides compute the same thing and times
them in turn; `results` is the record, which `table` shows, `page` writes as documentation and programs read as JSON.
"""
