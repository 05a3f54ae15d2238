package lib.words

import rego.v1

joined(set) := concat(", ", sort(set))

same(one, other) if fold(one) == fold(other)
