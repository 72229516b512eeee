"""`python -m jaxhand.data.synthetic --preview sheet.png`: write a sheet of synthetic hands."""

import sys

from jaxhand.data.synthetic import dataset

sys.exit(dataset.main())
