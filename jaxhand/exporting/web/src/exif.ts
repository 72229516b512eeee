/** The focal length in the EXIF data of a JPEG, as jaxhand/data/images/header.py reads it. */

const FILM_DIAGONAL_MM = Math.hypot(36, 24);
const UNITS_MM: Record<number, number> = { 2: 25.4, 3: 10, 4: 1, 5: 0.001 };
const TAGS = { photograph: 0x8769, focal: 0x920a, focal35mm: 0xa405, width: 0xa002, resolution: 0xa20e, unit: 0xa210 };

/** The focal length in px that a JPEG states, or null. `width` and `height` are those of the picture, in any order. */
export function focalLength(file: ArrayBuffer, width: number, height: number): number | null {
  const tags = exifTags(new DataView(file));
  const focal35mm = tags.get(TAGS.focal35mm) ?? 0;
  if (focal35mm > 0) return (focal35mm * Math.hypot(width, height)) / FILM_DIAGONAL_MM;
  const unit = UNITS_MM[tags.get(TAGS.unit) ?? 2];
  const [focal, resolution] = [tags.get(TAGS.focal) ?? 0, tags.get(TAGS.resolution) ?? 0];
  if (unit === undefined || focal <= 0 || resolution <= 0) return null;
  const recorded = tags.get(TAGS.width) ?? 0;
  return ((focal * resolution) / unit) * (recorded > 0 ? storedWidth(new DataView(file), width) / recorded : 1);
}

function exifTags(file: DataView): Map<number, number> {
  for (const [marker, start] of segments(file)) {
    if (marker === 0xe1 && start + 8 < file.byteLength && file.getUint32(start + 2) === 0x45786966) { // "Exif"
      const length = Math.min(file.getUint16(start), file.byteLength - start);
      const tiff = new DataView(file.buffer, file.byteOffset + start + 8, Math.max(length - 8, 0));
      if (tiff.byteLength < 8) return new Map();
      const little = tiff.getUint16(0) === 0x4949;
      const first = directory(tiff, tiff.getUint32(4, little), little);
      const second = directory(tiff, first.get(TAGS.photograph) ?? tiff.byteLength, little);
      return new Map([...second, ...first]);
    }
  }
  return new Map();
}

/** The numbers of a TIFF directory by tag, up to the first entry that is damaged. */
function directory(tiff: DataView, start: number, little: boolean): Map<number, number> {
  const found = new Map<number, number>();
  try {
    const count = tiff.getUint16(start, little);
    for (let at = start + 2; at < start + 2 + 12 * count; at += 12) {
      const tag = tiff.getUint16(at, little);
      const kind = tiff.getUint16(at + 2, little);
      if (kind === 3) found.set(tag, tiff.getUint16(at + 8, little));
      else if (kind === 4) found.set(tag, tiff.getUint32(at + 8, little));
      else if (kind === 5) {
        const place = tiff.getUint32(at + 8, little);
        const denominator = tiff.getUint32(place + 4, little);
        found.set(tag, denominator ? tiff.getUint32(place, little) / denominator : 0);
      }
    }
  } catch {
    // an offset points beyond the header
  }
  return found;
}

/** The width before the picture was turned upright. */
function storedWidth(file: DataView, width: number): number {
  for (const [marker, start] of segments(file)) {
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame && start + 7 <= file.byteLength) return file.getUint16(start + 5);
  }
  return width;
}

/** The markers of a JPEG's header, each with the offset of the length field after it. */
function* segments(file: DataView): Generator<[number, number]> {
  if (file.byteLength < 4 || file.getUint16(0) !== 0xffd8) return;
  let at = 2;
  while (at + 4 <= file.byteLength && file.getUint8(at) === 0xff) {
    const marker = file.getUint8(at + 1);
    if (marker === 0xff) {
      at++; // padding before a marker
      continue;
    }
    yield [marker, at + 2];
    if (marker === 0xda) return; // the pixels follow
    at += 2 + file.getUint16(at + 2);
  }
}
