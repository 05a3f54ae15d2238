package lib.words

import rego.v1

fold(text) := lower(text) if is_string(text)

else := "nothing" if is_null(text)

else := sprintf("%v", [text])
