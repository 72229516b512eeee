"""How large the content of a file may be. A file that asks for more is refused before the memory for it is reserved.

Every limit follows from what a format or a benchmark needs, with room to spare. Together they keep the memory for any
file below 10 MB under 2 GB, and the time under 30 s.
"""

# ---- Text
YAML_CHARACTERS = 2**19  # a config with every key has 5 kB; PyYAML reads about 80 kB/s
YAML_VALUES = 20_000  # number of values, counted once for every alias that refers to them
JSON_ENTRY = 2**24  # characters of one entry of a long list; an annotation with a polygon has about 10,000
FRAMES = 100_000  # frames of a video, as a file of a data set states it; DexYCB's have 70

# ---- Data sets
RECORDS = 10**8  # records of a data set; InterHand2.6M has 1,361,062 images. Their shuffled order is kept in memory

# ---- Archives. A file of zeros is compressed 1000 times, so the packed size alone says little.
UNPACKED_BYTES = 200 * 10**6  # HO-3D v3: 20,137 meshes of 778 points "0.0", the longest text that compresses this well
UNPACKED_PER_BYTE = 8  # and as much for every byte of the archive; text of numbers is compressed 3 times, arrays 1.2

# ---- Predictions
SAMPLE_BYTES = 2**22  # text of one sample; a mesh of 10,000 points has 0.6 MB
SAMPLES = 2 * 10**6  # samples of a file; InterHand2.6M's test set has 849,160 images of one or two hands

# ---- Pickles
CONTAINERS = 10**6  # number of lists, dicts and tuples: one byte of a file can take 250 bytes of memory
CONTAINERS_PER_BYTE = 1 / 20  # and as many for every byte of the pickle; RHD's labels have one per 100 bytes
PICKLE_KEYS = 10_000  # integers of 64 bits or more, and keys that are tuples: if they collide, a dict is slow
SHARED_BYTES = 2**26  # size of the values when every reference is counted as a copy
SHARED_PER_BYTE = 16  # and as much for every byte of the pickle

# ---- Arrays and networks
AXES = 32  # axes of an array; a network's weights have at most 5
LAYERS = 1_000  # layers of a network; ViT-H has 32
SPARSE_ELEMENTS = 2**20  # elements of a sparse matrix; MANO's has 16 x 778
NETWORK_BYTES = 2**28  # a .tflite file; MediaPipe's networks for hands have 2 to 6 MB
NETWORK_ITEMS = 5_000  # operations, tensors or constants of a .tflite network
OPERATION_TENSORS = 32  # inputs or outputs of an operation or a .tflite network
TORCH_PICKLES = 2**24  # bytes of the five pickles of a torch.save file before PyTorch 1.6

# ---- Images
PIXELS = 200 * 10**6  # width x height; the largest camera of a phone has 16320x12240 px
DEPTH_PIXELS = (
    50 * 10**6
)  # the same of a depth image, whose pixels have up to 8 bytes; depth cameras have 1 to 4 million
DECODED_PIXELS = 2 * 10**9  # pixels x passes over them; a progressive JPEG has about 10 passes


def unpacked(packed_bytes: int) -> int:
    """Largest number of bytes that an archive of `packed_bytes` may contain."""
    return UNPACKED_BYTES + UNPACKED_PER_BYTE * packed_bytes


def containers(pickle_bytes: int) -> int:
    """Largest number of lists, dicts, tuples and sets in a pickle; a set counts four times."""
    return CONTAINERS + int(CONTAINERS_PER_BYTE * pickle_bytes)


def shared(pickle_bytes: int) -> int:
    """Largest size, in bytes, of the values of a pickle when every reference is counted as a copy."""
    return SHARED_BYTES + SHARED_PER_BYTE * pickle_bytes
