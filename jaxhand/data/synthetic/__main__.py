"""Write a sheet of synthetic hands: `python -m jaxhand.data.synthetic --preview sheet.png`.

The command `jaxhand synthetic` does the same.
"""

import sys

from jaxhand.data.synthetic import dataset

sys.exit(dataset.main())
