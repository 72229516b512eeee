/**
 * Cut a square out of a picture, as jaxhand/data/crop.py does: means of blocks of pixels, then bilinear sampling, and
 * black outside of the picture. The scaling of a canvas differs so much that joints move by many pixels.
 */

import { inverse, multiply, type Crop } from "./geometry";

/** Pixels in RGBA, row by row: an ImageData, or an object like it. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8ClampedArray | Uint8Array;
}

/** A rectangle of blocks: `rgb` has 3 numbers per block, row by row. */
interface Blocks {
  x0: number;
  y0: number;
  width: number;
  height: number;
  rgb: Uint8ClampedArray;
}

/** Cut a crop out of a picture: size * size * 3 numbers, RGB. */
export function cut(picture: Picture, { A, zoom, size, mirrored }: Crop): Uint8Array {
  const n = Math.max(1, Math.min(roundHalfToEven(1 / zoom), picture.width, picture.height)); // side of a block, px
  const toCrop = multiply(A, [[n, 0, (n - 1) / 2], [0, n, (n - 1) / 2], [0, 0, 1]]); // from blocks
  const [[a, b, e], [c, d, f]] = inverse(toCrop);
  const float = Math.fround; // where OpenCV rounds to float32, which decides between two grey levels
  const corners = [[0, 0], [size, 0], [0, size], [size, size]];
  const [xs, ys] = [corners.map(([u, v]) => a * u + b * v + e), corners.map(([u, v]) => c * u + d * v + f)];
  const blocks = blockMeans(picture, n, mirrored, xs, ys);
  const { x0, y0, width, height, rgb } = blocks;
  const [ax, bx, ex, cy, dy, fy] = [a, b, e - x0, c, d, f - y0].map(float);
  const crop = new Uint8ClampedArray(size * size * 3); // rounds halves to even, as OpenCV does
  for (let v = 0, out = 0; v < size; v++) {
    const [rowX, rowY] = [float(float(bx * v) + ex), float(float(dy * v) + fy)];
    for (let u = 0; u < size; u++, out += 3) {
      const x = float(ax * u + rowX);
      const y = float(cy * u + rowY);
      const [left, top] = [Math.floor(x), Math.floor(y)];
      if (left < -1 || top < -1 || left >= width || top >= height) continue; // black
      const [right, low] = [x - left, y - top]; // weights of the next column and row
      const [x0in, x1in] = [left >= 0, left + 1 < width];
      const [y0in, y1in] = [top >= 0, top + 1 < height];
      const at = (top * width + left) * 3;
      for (let channel = at; channel < at + 3; channel++) {
        const below = channel + 3 * width;
        const upper = y0in ? between(x0in ? rgb[channel] : 0, x1in ? rgb[channel + 3] : 0, right) : 0;
        const lower = y1in ? between(x0in ? rgb[below] : 0, x1in ? rgb[below + 3] : 0, right) : 0;
        crop[out + channel - at] = between(upper, lower, low);
      }
    }
  }
  return new Uint8Array(crop.buffer);
}

/** Linear interpolation, rounded to float32. */
function between(a: number, b: number, weight: number): number {
  return Math.fround(a + weight * (b - a));
}

/** Means of n x n px, of the part of the picture that the crop's corners (xs, ys, in blocks) enclose. */
function blockMeans({ width, height, data }: Picture, n: number, mirrored: boolean, xs: number[], ys: number[]): Blocks {
  const clip = (value: number, high: number) => Math.min(Math.max(Math.trunc(value), 0), high);
  const [columns, rows] = [Math.floor(width / n), Math.floor(height / n)];
  const x0 = clip(Math.min(...xs) - 2, columns - 1);
  const y0 = clip(Math.min(...ys) - 2, rows - 1);
  const x1 = Math.max(clip(Math.max(...xs) + 3, columns), x0 + 1);
  const y1 = Math.max(clip(Math.max(...ys) + 3, rows), y0 + 1);
  const rgb = new Uint8ClampedArray((x1 - x0) * (y1 - y0) * 3);
  const half = n === 2 ? 0.1 : 0; // OpenCV rounds the halves of four pixels up, and others to even
  const [step, area] = [mirrored ? -4 : 4, n * n];
  for (let y = y0, out = 0; y < y1; y++) {
    for (let x = x0; x < x1; x++, out += 3) {
      let [red, green, blue] = [0, 0, 0];
      for (let row = y * n; row < (y + 1) * n; row++) {
        let at = 4 * (row * width + (mirrored ? width - 1 - x * n : x * n));
        for (let column = 0; column < n; column++, at += step) {
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      rgb[out] = red / area + half;
      rgb[out + 1] = green / area + half;
      rgb[out + 2] = blue / area + half;
    }
  }
  return { x0, y0, width: x1 - x0, height: y1 - y0, rgb };
}

/** Python's `round`. */
function roundHalfToEven(value: number): number {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}
