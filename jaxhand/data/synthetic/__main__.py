"""`python -m jaxhand.data.synthetic --preview sheet.png`: write a sheet of synthetic hands.

The same as `jaxhand synthetic`.
"""

import sys

from jaxhand.data.synthetic import dataset

sys.exit(dataset.main())
