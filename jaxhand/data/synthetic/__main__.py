"""`python -m jaxhand.data.synthetic --preview sheet.png`: draw a page of synthetic hands, as `jaxhand synthetic` does."""

import sys

from jaxhand.data.synthetic import dataset

sys.exit(dataset.main())
