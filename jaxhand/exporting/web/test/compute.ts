// Runs functions of the page on values from Python, and prints their results as JSON.
//   node compute.mjs CASES.json, a list of [name of a function, its arguments]; {"rgba": base64, …} is a picture.
import fs from "node:fs";

import { cut } from "../src/crop";
import { focalLength } from "../src/exif";
import { apart, suppress } from "../src/finder";
import * as geometry from "../src/geometry";

const functions: Record<string, (...values: never[]) => unknown> = {
  ...(geometry as unknown as Record<string, (...values: never[]) => unknown>),
  apart,
  suppress,
  cut: (picture: never, crop: never) => Array.from(cut(picture, crop)),
  focalLength,
};

const cases = JSON.parse(fs.readFileSync(process.argv[2], "utf8"), (_, value) => {
  if (value && typeof value === "object" && "rgba" in value) {
    return { ...value, data: new Uint8Array(Buffer.from(value.rgba, "base64")) };
  }
  if (value && typeof value === "object" && "bytes" in value) {
    return Uint8Array.from(Buffer.from(value.bytes, "base64")).buffer;
  }
  return value;
}) as [string, never[]][];
console.log(JSON.stringify(cases.map(([name, values]) => functions[name](...values))));
