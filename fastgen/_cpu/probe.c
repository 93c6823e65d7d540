/* Compiles where the compiler knows OpenMP, and says how many threads come. */
int threads(void) {
    int count = 0;
#pragma omp parallel reduction(+ : count)
    count += 1;
    return count;
}
