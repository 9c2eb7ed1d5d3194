-- What an output lacks of its source, as words separated by spaces, such as `tone-mapped`.
ALTER TABLE files ADD COLUMN notes TEXT NOT NULL DEFAULT '';
