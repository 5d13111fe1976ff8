import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    environment: "node",
    // No test waits for a clock; thousands of random histories take 5 s where others work
    // too. This only ends what hangs.
    testTimeout: 60_000,
  },
});
