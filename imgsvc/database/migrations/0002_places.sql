-- A table's columns have a third list: where in `extra` of a row the cells of the further ones stand. So
-- far all cells there were theirs; now there are some of columns without a name that proved empty.
UPDATE headers SET columns = json_insert(columns, '$[2]', json((
  SELECT json_group_array(place) FROM (
    SELECT row_number() OVER (ORDER BY key) - 1 AS place
    FROM json_each(columns, '$[1]') WHERE value = 'extra' ORDER BY place
  )
)));
